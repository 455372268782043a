"""Types of hyperparameters that several nets and agents have; params.yaml is checked by them."""

from typing import Annotated, Literal

from annotated_types import Interval, MinLen
from pydantic import PositiveInt

Device = Literal["auto", "cpu", "cuda"]  # auto: a GPU where there is one
Dropout = Annotated[float, Interval(ge=0, lt=1)]  # a probability
LearningRate = Annotated[float, Interval(gt=0, le=1)]
Sizes = Annotated[list[PositiveInt], MinLen(1)]  # one for each layer or block
