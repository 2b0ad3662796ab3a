"""A model on a mesh with explicit axes, which asks JAX for the mesh: what replaces a tap has its layout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from harness.architecture import read_config
from harness.run.adapters import FunctionPort, To, on_mesh
from harness.run.matmul_audit import audit
from harness.run.port import Call
from harness.run.tapping import no_tap
from tests.run.adapters.seen import IDS, seen

SPLIT = PartitionSpec(None, None, "model")


def projected(x, weight):
    return jnp.einsum("bsh,hf->bsf", x, weight, out_sharding=SPLIT)


def layouts(x):
    assert jax.typeof(x).sharding.spec == SPLIT
    return x


class OnMesh(FunctionPort):
    taps = {f"{__name__}:projected": To("layers.0.q", "batch position (head head_dim)")}
    mesh = None

    @classmethod
    def on(cls, config):
        port = cls(config, jnp.float32)
        port.mesh = jax.make_mesh((1,), ("model",), axis_types=(AxisType.Explicit,))
        port.weight = jax.device_put(np.eye(48, dtype=np.float32), NamedSharding(port.mesh, PartitionSpec()))
        return port

    def context(self):
        return on_mesh(self.mesh)

    def run(self, input_ids, positions, mask):
        x = jnp.ones((*input_ids.shape, 48)) * input_ids[..., None].astype(jnp.float32)
        return layouts(projected(x, self.weight)) * 2, {}


@pytest.fixture(scope="module")
def config(checkpoint):
    return read_config(checkpoint)


@pytest.fixture(scope="module")
def port(config):
    return OnMesh.on(config)


def test_what_replaces_a_tap_has_its_layout(port):
    own = np.broadcast_to(IDS[..., None, None], (1, 3, 6, 8)).astype(np.float32)
    golden = {"layers.0.q": own + 1}
    for replaying, goes_on in ((False, own), (True, golden["layers.0.q"])):
        taps, found = seen(port, golden, replaying)
        np.testing.assert_array_equal(taps["layers.0.q"], own)
        np.testing.assert_array_equal(found, 2 * goes_on.reshape(1, 3, 48))


def test_precision_settings_of_a_model_on_a_mesh_are_looked_into(port):
    call = Call(jnp.asarray(IDS), jnp.arange(3)[None], jnp.ones((1, 3), bool), None, no_tap)
    assert audit(port, [call]).failure is None


def test_without_the_mesh_the_model_cannot_run(config, monkeypatch):
    monkeypatch.delattr(OnMesh, "context")
    with pytest.raises(Exception, match="mesh"):
        seen(OnMesh.on(config), {})
