"""An HTTP server with OpenAI's interface, Anthropic's and Ollama's: `pellucid serve`. Needs the extra `server`.

app: the application, for any ASGI server · run: the server itself · access, body, failures: what is accepted and what
is refused · models: loading and unloading · generate: from a request to its answer · shapes: OpenAI's objects ·
responses, items, messages, ollama: the interfaces that are translated to OpenAI's chat · embeddings: vectors and
relevance · operate: the other endpoints · feed: pieces of answers · protocol: timeouts and limits of connections ·
metrics, record: what operators see.
"""
