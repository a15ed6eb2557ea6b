"""Model hubs on loopback that serve one folder the way Hugging Face and ModelScope do, where the real ones are out of reach.

They answer what the hubs' own clients ask (huggingface_hub 2.4.0, modelscope 1.40.2), and nothing else.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _application(log: list[str], token: str | None = None) -> web.Application:
    @web.middleware
    async def logged(request: web.Request, handler: Handler) -> web.StreamResponse:
        log.append(f"{request.method} {request.path_qs}")
        if token is not None and request.headers.get("Authorization") != f"Bearer {token}":
            raise web.HTTPUnauthorized
        return await handler(request)

    return web.Application(middlewares=[logged])


def huggingface(folder: Path, repository: str, revision: str, log: list[str], token: str | None = None) -> web.Application:
    """Hugging Face's side of `hf download` and `hf cache verify`; `log` collects each request as ``METHOD path``.

    With a token, it is a gated repository: who does not show it is sent away.
    """

    async def tree(request: web.Request) -> web.Response:
        entries: list[dict[str, object]] = []
        for name in _names(folder):
            content = (folder / name).read_bytes()
            entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": _git_oid(content)}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        return web.json_response(entries)

    async def resolve(request: web.Request) -> web.StreamResponse:
        path = folder / request.match_info["file"]
        if path.name not in _names(folder):
            raise web.HTTPNotFound
        headers = {"X-Repo-Commit": revision, "ETag": f'"{_sha256(path)}"'}
        if request.method == "HEAD":
            return web.Response(headers=headers | {"Content-Length": str(path.stat().st_size), "Accept-Ranges": "bytes"})
        return web.FileResponse(path, headers=headers)

    application = _application(log, token)
    application.router.add_get(f"/api/models/{repository}/tree/{revision}", tree)
    application.router.add_route("*", f"/{repository}/resolve/{revision}/{{file}}", resolve)
    return application


def modelscope(folder: Path, repository: str, revision: str, log: list[str]) -> web.Application:
    """ModelScope's side of `modelscope download`; `log` collects each request as ``METHOD path``."""

    def answer(data: object) -> web.Response:
        return web.json_response({"Code": 200, "Success": True, "Message": "", "RequestId": "1", "Data": data})

    async def listing(request: web.Request) -> web.Response:
        if request.query.get("Revision") != revision:
            raise web.HTTPNotFound
        files = [
            {
                "Name": name,
                "Path": name,
                "Type": "blob",
                "Size": (folder / name).stat().st_size,
                "Sha256": _sha256(folder / name),
                "Revision": "b" * 40,
                "IsLFS": False,
            }
            for name in _names(folder)
        ]
        return answer({"Files": files, "LatestCommitter": {}})

    async def content(request: web.Request) -> web.StreamResponse:
        if request.query["FilePath"] not in _names(folder):
            raise web.HTTPNotFound
        return web.FileResponse(folder / request.query["FilePath"])

    async def info(request: web.Request) -> web.Response:
        return answer({"Id": 1, "Name": repository.split("/")[1], "Path": repository.split("/")[0], "Visibility": 5})

    application = _application(log)
    application.router.add_get(f"/api/v1/models/{repository}/repo/files", listing)
    application.router.add_get(f"/api/v1/models/{repository}/repo", content)
    application.router.add_get(f"/api/v1/models/{repository}", info)
    return application


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@asynccontextmanager
async def serving(application: web.Application) -> AsyncIterator[str]:
    """Serve on a free loopback port; yields the address."""
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
