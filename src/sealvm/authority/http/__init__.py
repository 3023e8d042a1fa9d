"""The authority over HTTP: FastAPI routes under /v1, one thin function a use case (docs/spec/http-api-v1.md).

Authenticates the caller, limits what it may send, calls the use case, and writes errors as RFC 9457 problems. Decides
nothing itself, and knows no SQL.
"""
