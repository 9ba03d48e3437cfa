import inspect

import keras
import pytest
from keras import layers

import keras_mimetic
from keras_mimetic._patterns import contents


def written_roles(report):
    return {row.path.split("/")[-2] for row in report.written}


def causal_and_gated():
    x = inputs = keras.Input((4, 8))
    x = x + layers.MultiHeadAttention(2, 4, use_gate=True)(x, x, use_causal_mask=True)
    return keras.Model(inputs, x)


@pytest.mark.skipif(
    "use_gate" not in inspect.signature(layers.MultiHeadAttention.__init__).parameters,
    reason="gates are newer than this Keras",
)
def test_where_one_pair_is_impossible_and_the_other_kept():
    """Each weight has its own reason, and a rule loses none of them."""
    with pytest.warns(UserWarning, match="wrote no weight"):
        plain = keras_mimetic.initialize(causal_and_gated(), seed=0)
    with pytest.warns(UserWarning, match="wrote no weight"):
        by_rule = keras_mimetic.initialize(
            causal_and_gated(), rules={"multi_head": "attention"}, seed=0
        )
    for report in (plain, by_rule):
        notes = {row.path.split("/")[-2]: row.note for row in report.rows}
        assert notes["query"] == notes["key"]
        assert "query and key keep their weights" in notes["query"]
        assert notes["value"] == notes["attention_output"] == contents.GATED
    settings = {"attention": {"query_key": (0.7, 0.7)}}
    report = keras_mimetic.initialize(
        causal_and_gated(), structures=settings, rules={"multi_head": "attention"}, seed=0
    )
    assert written_roles(report) == {"query", "key"}
