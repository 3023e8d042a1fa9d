"""Errors as RFC 9457 problems: one table from sealvm's error tree to HTTP status.

What was refused to its own caller is said in full; a fault of the authority is said by its code only, and in full in
the authority's log.
"""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sealvm.errors import (
    AccessRefused,
    AuthorityAwayFault,
    ConflictError,
    Fault,
    InputError,
    MalformedError,
    NotFoundError,
    Refusal,
    RollbackRefused,
    SealvmError,
    StorageFault,
)
from sealvm.protocol.operator import Problem

PROBLEM_TYPE = "application/problem+json"
log = structlog.get_logger(__name__)

STATUS: dict[type[SealvmError], int] = {
    InputError: 400,
    NotFoundError: 404,
    ConflictError: 409,
    Refusal: 403,
    AccessRefused: 401,
    RollbackRefused: 409,
    Fault: 500,
    StorageFault: 503,
    AuthorityAwayFault: 503,
    SealvmError: 500,
}


def status_of(error: SealvmError) -> int:
    """The HTTP status of an error: that of its nearest class in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem_of(error: SealvmError) -> Problem:
    """The problem that a peer gets."""
    title = (type(error).__doc__ or error.code).split("\n", 1)[0].rstrip(".")
    hidden = isinstance(error, Fault) or type(error) is SealvmError
    return Problem(
        type=f"urn:sealvm:error:{error.code}",
        title=title,
        status=status_of(error),
        detail="the authority could not do this; its log says why" if hidden else error.message,
        code=error.code,
        hint="" if hidden else error.hint,
        fields={} if hidden else {name: _plain(value) for name, value in error.fields.items()},
    )


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem."""

    @app.exception_handler(SealvmError)
    async def sealvm_error(request: Request, error: SealvmError) -> JSONResponse:
        if isinstance(error, Fault):
            log.error("fault", method=request.method, path=request.url.path, code=error.code, reason=error.message)
        else:
            log.info("refused", method=request.method, path=request.url.path, code=error.code, reason=error.message)
        return _answer(problem_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return await sealvm_error(request, MalformedError(f"request: {place}: {first['msg'][:200]}"))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, SealvmError):
            return await sealvm_error(request, error.__cause__)
        code = NotFoundError.code if error.status_code == 404 else InputError.code
        detail = str(error.detail)[:200]
        return _answer(
            Problem(
                type=f"urn:sealvm:error:{code}",
                title=detail,
                status=error.status_code,
                detail=detail.lower(),
                code=code,
            )
        )

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        log.error("internal error", method=request.method, path=request.url.path, kind=type(error).__name__)
        return _answer(problem_of(Fault(type(error).__name__)))


def _answer(problem: Problem) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer, DPoP"} if problem.status == 401 else {}
    return JSONResponse(
        problem.model_dump(mode="json"), status_code=problem.status, media_type=PROBLEM_TYPE, headers=headers
    )


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value.hex() if isinstance(value, bytes) else str(value)
