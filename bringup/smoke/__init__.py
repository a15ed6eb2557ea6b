"""The smoke benchmark: load, samples and the verdict on a served model.

It runs on the host from a zip of `bringup/` as well, so nothing here imports more
than aiohttp and pydantic, or reads package data by path.
"""
