"""The stock way: what one would write first with Faust and PyTorch. `python -m ops.bench.stock` is a worker of its own.

An agent takes event by event, a table keeps each user's state and seen items, and the model is called for one user at a
time. It does less than the worker: no dead letters, no repeated events, no bounded history, no guard against a second
writer, and what it acknowledges before a crash is Faust's affair.
"""

import tempfile
from collections.abc import AsyncIterable
from typing import Any, Final

import faust
import msgpack
import numpy as np
import torch
from faust.cli.faust import cli

from ops.bench.rig import CATALOGUE
from schemas.settings import Settings
from training.model.lrurec import LRURec, Shape

_LIST: Final = 10
_SEEN: Final = 150


def app(settings: Settings, datadir: str) -> faust.App:
    """The whole service."""
    torch.set_num_threads(1)
    stock = faust.App(
        settings.app,
        broker=f"kafka://{settings.broker}",
        topic_partitions=settings.partitions,
        consumer_auto_offset_reset="earliest",
        datadir=datadir,
        web_enabled=False,
    )
    model = LRURec(Shape(items=CATALOGUE)).eval()
    rows = {f"item-{row}": row for row in range(CATALOGUE)}
    item_ids = list(rows)
    events = stock.topic(settings.interactions, key_serializer="raw", value_serializer="raw")
    lists = stock.topic(settings.recommendations, key_serializer="raw", value_serializer="json")
    states, histories = (
        stock.Table(name, key_type=bytes, value_type=bytes, default=bytes, partitions=settings.partitions)
        for name in ("states", "histories")
    )

    async def recommend(stream: Any) -> None:
        records: AsyncIterable[Any] = stream.events()
        async for record in records:
            user, event = record.key, msgpack.unpackb(record.value)
            row = rows[event["item_id"]]
            seen = np.append(np.frombuffer(histories[user], np.int64), row)[-_SEEN:]
            with torch.inference_mode():
                state = torch.frombuffer(bytearray(states[user] or bytes(4 * model.shape.state)), dtype=torch.float32)
                query, state = model(model.embedding.weight[row][None], state[None])
                scores = (model.embedding.weight @ query[0]) + model.bias
                scores[torch.from_numpy(seen)] = -torch.inf
                best = torch.topk(scores, _LIST)
            states[user], histories[user] = state.numpy().tobytes(), seen.tobytes()
            items = [
                {"item_id": item_ids[item], "score": score}
                for item, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
            await lists.send(key=user, value={"user_id": event["user_id"], "items": items})

    stock.agent(events)(recommend)
    return stock


def main() -> None:
    """Serve until SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="recommender-stock-") as datadir:
        cli(["--quiet", "worker", "--without-web"], app=app(Settings(), datadir))


if __name__ == "__main__":
    main()
