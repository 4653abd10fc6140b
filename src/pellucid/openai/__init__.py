"""OpenAI's interface without a connection: the fields of a request, read into the library's options, and the objects of
an answer, made from what was generated. The server, batches and adapters share it."""
