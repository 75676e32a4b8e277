"""Numbers survive JSON, also those that it lacks, and the page can show them."""

import json
import math

import numpy as np

from jaxgeo.study import page
from jaxgeo.study.values import plain, restored


def test_what_json_lacks_comes_back_as_the_same_number():
    values = {"a": [np.float32("inf"), -math.inf, 1.5], "b": {"c": np.arange(3), "text": "one"}}
    back = restored(json.loads(json.dumps(plain(values), allow_nan=False)))
    assert back == {"a": [math.inf, -math.inf, 1.5], "b": {"c": [0, 1, 2], "text": "one"}}
    assert math.isnan(restored(plain(math.nan)))


def test_an_infinite_r_hat_of_stuck_chains_can_be_shown():
    assert page.number(restored(plain(np.inf))) == "∞"
    assert page.with_error(math.inf, None) == {"value": "∞", "error": ""}
