"""Nodes to talk with, and tiny random models."""

import itertools
import os
import time

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


def save_tiny_model(path, seed=0):
    from fpt_ros.core.checkpoint import save_checkpoint
    from fpt_ros.core.config import DinoEncoderConfig, HeadConfig, ModelConfig, TransformerConfig
    from fpt_ros.core.model import FlowPokeModel

    torch.manual_seed(seed)
    model = FlowPokeModel(
        ModelConfig(
            DinoEncoderConfig(input_px=56, width=32, depth=1, heads=2, position_grid=4),
            TransformerConfig(width=32, depth=2, d_head=16),
            HeadConfig(n_components=3),
        )
    )
    with torch.no_grad():  # a network starts out blind to its pokes
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    save_checkpoint(path, model, horizon_s=0.5, licence="Apache-2.0")
    return path


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with two models and something that is none."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model(folder / "one.safetensors", seed=1)
    save_tiny_model(folder / "two.safetensors", seed=2)
    (folder / "broken.safetensors").write_bytes((folder / "one.safetensors").read_bytes()[:5000])
    return folder


class Ros:
    """A context with an executor that the test turns by hand, and a node to talk with."""

    def __init__(self):
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        from fpt_ros.dds import profile_environment

        os.environ.update(profile_environment(os.environ))
        self.context = rclpy.Context()
        # Engines are built in the background, which is not what most tests are about.
        rclpy.init(args=["--ros-args", "-p", "engine:=torch"], context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.namespaces = (f"/t{os.getpid()}_{i}" for i in itertools.count())

    def node(self, cls=None, name="tester", **arguments):
        from rclpy.node import Node

        cls = cls or Node
        if cls is Node:
            arguments["node_name"] = name
        node = cls(context=self.context, **arguments)
        self.executor.add_node(node)
        return node

    def remove(self, node):
        self.executor.remove_node(node)
        node.destroy_node()

    def until(self, condition, seconds=20.0):
        """Spin until the condition holds; say which one did not."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            self.executor.spin_once(timeout_sec=0.02)

    def call(self, client, request):
        self.until(client.service_is_ready)
        future = client.call_async(request)
        self.until(future.done)
        return future.result()

    def close(self):
        import rclpy

        self.executor.shutdown()
        rclpy.shutdown(context=self.context)


@pytest.fixture(scope="session")
def ros():
    pytest.importorskip("rclpy")
    pytest.importorskip("fpt_ros.msg")
    ros = Ros()
    yield ros
    ros.close()


@pytest.fixture(scope="session")
def picture():
    y, x = np.mgrid[:48, :64]
    return np.stack([4 * x, 5 * y, 2 * (x + y)], -1).astype(np.uint8)
