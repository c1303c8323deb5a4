"""What tables.json says of a column."""

import math

import pandas as pd


def summary(column: pd.Series) -> list:
    """How many nulls a column has, how many different values, and the sum of numbers."""
    numbers = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    return [int(column.isna().sum()), int(column.nunique()), math.fsum(column.dropna()) if numbers else None]
