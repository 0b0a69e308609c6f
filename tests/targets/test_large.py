"""A model of the size of Llama 70B: imported and costed from its shapes alone, in little memory."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, resource, time
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from chipfit.examples.smollm2 import LENGTH, Prefill
from chipfit.frontend.importer import import_model
from chipfit.targets.registry import get_target

CHIPS = ("host", "cortex-a76", "h100-sxm", "ascend-910b3", "br100")

start = time.perf_counter()
config = LlamaConfig(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
                     num_key_value_heads=8, vocab_size=128256)
with torch.device("meta"):
    model = Prefill(LlamaForCausalLM(config)).to(torch.bfloat16).eval()
    ids = torch.zeros(1, LENGTH, dtype=torch.int64)
model.positions = model.positions.to(torch.int64)
graph = import_model(model, (ids,))
imported = time.perf_counter()
costs = {name: get_target(name).cost_model.cost(graph) for name in CHIPS}
print(json.dumps({
    "parameters": graph.parameter_count,
    "meta": all(tensor.is_meta for tensor in graph.state.values()),
    "import_s": imported - start,
    "cost_s": time.perf_counter() - imported,
    "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "weights": [cost.weight_bytes for cost in costs.values()],
    "latency_ms": {name: cost.latency_ms for name, cost in costs.items()},
    "kernels": len(costs["host"].layers),
}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs")
def test_seventy_billion_parameters_are_costed_without_weights() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)  # seconds and bytes, for whoever runs this with -s
    assert found["meta"]
    assert found["parameters"] == 70_553_706_496
    assert set(found["weights"]) == {found["weights"][0]}
    assert found["weights"][0] >= 2 * found["parameters"]
    assert found["peak_bytes"] < 4e9
    assert all(milliseconds > 0 for milliseconds in found["latency_ms"].values())
