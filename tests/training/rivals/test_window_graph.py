import numpy as np
import onnxruntime
import torch

from training.model.packing import pack
from training.rivals.sasrec import SASRec, SASRecShape
from training.rivals.window_graph import export_window


def test_an_exported_window_gives_the_query_of_the_model():
    torch.manual_seed(0)
    model = SASRec(SASRecShape(items=50, window=12, width=16, blocks=2)).eval()
    x = torch.randn(3, 7, 16)
    session = onnxruntime.InferenceSession(export_window(model, 7), providers=["CPUExecutionProvider"])
    [query] = session.run(None, {"x": x.numpy()})
    packed = x.transpose(0, 1).reshape(21, 16)  # time-major
    with torch.no_grad():
        expected, _ = model(packed, packing=pack([7, 7, 7]))
    assert np.abs(query - expected[-3:].numpy()).max() < 1e-5
