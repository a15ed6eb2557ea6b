"""What all facts have in common."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value that nobody changes after it was made; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
