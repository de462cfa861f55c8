"""Several service processes that are one service: a Kafka cluster, a Redis Cluster."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

from .errors import ServiceStartFailed
from .processes import wait_until
from .service import ServiceProcess

Node = TypeVar("Node", bound=ServiceProcess)


class ServiceGroup(Generic[Node]):
    """Nodes that start, stop and suffer together; for a fault to one alone, use `group.nodes[i]`."""

    start_timeout: float = 60.0  # seconds from every node ready to the whole ready

    def __init__(self, name: str, nodes: Sequence[Node]) -> None:
        self.name = name
        self.nodes: tuple[Node, ...] = tuple(nodes)

    def form(self) -> None:
        """Hook: join the nodes, all of which are ready. Called at every start."""

    def is_whole(self) -> bool:
        """Hook: whether every node knows all the others."""
        return True

    @property
    def owned(self) -> bool:
        return True

    @property
    def running(self) -> bool:
        """Whether all of its processes exist."""
        return all(node.running for node in self.nodes)

    def start(self) -> None:
        try:
            for node in self.nodes:  # all before waiting for any: none may be ready without the others
                node.launch()
            for node in self.nodes:
                node.wait_ready()
            self.form()
            if not wait_until(self.is_whole, self.start_timeout):
                logs = self.log_tail()
                raise ServiceStartFailed(f"{self.name} did not form in {self.start_timeout:.0f} s; its logs:\n{logs}")
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        for node in self.nodes:
            node.ask_to_end()
        for node in self.nodes:
            node.await_end()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def pause(self) -> None:
        for node in self.nodes:
            node.pause()

    def resume(self) -> None:
        for node in self.nodes:
            node.resume()

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        for node in self.nodes:
            node.close()

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(f"--- {node.name}\n{node.log_tail(lines)}" for node in self.nodes)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
