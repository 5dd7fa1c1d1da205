"""Types of single fields that study files share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
ColumnName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9_{}./-]+$", max_length=200)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
