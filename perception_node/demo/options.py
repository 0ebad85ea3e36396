"""Types of options that the demo and its player share."""

import math
from typing import Any

import click


class _Number(click.FloatRange):
    """click's range lets nan through: it is neither below nor above."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


RATE = _Number(min=0.001, max=1000)
FPS = _Number(min=0.001, max=1000)
