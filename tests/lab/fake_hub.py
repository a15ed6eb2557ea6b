"""A model hub on loopback that serves one folder the way Hugging Face's does, for hosts that cannot reach the real one."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web


def hub(folder: Path, repository: str, revision: str, log: list[str]) -> web.Application:
    """The application; `log` collects each request as ``METHOD path``."""
    files = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))

    @web.middleware
    async def logged(request: web.Request, handler):  # type: ignore[no-untyped-def]
        log.append(f"{request.method} {request.path}")
        return await handler(request)

    async def info(request: web.Request) -> web.Response:
        siblings = [{"rfilename": name} for name in files]
        return web.json_response({"id": repository, "modelId": repository, "sha": revision, "siblings": siblings, "private": False})

    async def tree(request: web.Request) -> web.Response:
        entries = []
        for name in files:
            content = (folder / name).read_bytes()
            entry = {"type": "file", "path": name, "size": len(content), "oid": _git_oid(content)}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        return web.json_response(entries)

    async def resolve(request: web.Request) -> web.StreamResponse:
        path = folder / request.match_info["file"]
        if path.name not in files or request.match_info["revision"] != revision:
            raise web.HTTPNotFound
        headers = {"X-Repo-Commit": revision, "ETag": f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"'}
        if request.method == "HEAD":
            return web.Response(headers=headers | {"Content-Length": str(path.stat().st_size), "Accept-Ranges": "bytes"})
        return web.FileResponse(path, headers=headers)

    application = web.Application(middlewares=[logged])
    application.router.add_get(f"/api/models/{repository}/revision/{{revision}}", info)
    application.router.add_get(f"/api/models/{repository}/tree/{{revision}}", tree)
    application.router.add_route("*", f"/{repository}/resolve/{{revision}}/{{file}}", resolve)
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
