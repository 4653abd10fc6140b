"""An HTTP server with OpenAI's interface, Anthropic's and Ollama's: `pellucid serve`. Needs the extra `server`.

app: the application, for any ASGI server · run: the server itself · access, body, fields, failures: what comes in and
what is refused · models: loading and unloading · generate: from a request to its answer · shapes: OpenAI's objects ·
responses, items, messages, ollama: the interfaces that become OpenAI's chat · embeddings: vectors and relevance ·
operate: the other endpoints · feed: what goes out · protocol: timeouts and limits of connections · metrics, record:
what operators see.
"""
