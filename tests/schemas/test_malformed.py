from schemas.malformed import Malformed


def test_message_names_field_rule_and_value():
    assert str(Malformed("user_id", 7, "must be a string")) == "user_id: must be a string, got 7"


def test_long_value_is_shortened():
    assert len(str(Malformed("value", b"x" * 100_000, "must be short"))) < 150


def test_value_too_deep_to_print_is_described():
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert Malformed("value", {"deep": deep}, "must be flat").value == "a deeply nested dict"
