from ops.bench import loading


def test_the_second_model_takes_as_much_memory_as_its_embedding_at_least() -> None:
    found = loading.measure(50_000)
    assert found.two_mib - found.one_mib > 4 * 64 * 50_000 / (1 << 20) - 1
    assert found.most_mib >= found.two_mib
    assert 0 < found.longest_wait_ms < 1000 * found.cpu_s
