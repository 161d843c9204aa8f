"""Workers that load something once and then process shards; a lost worker is replaced, and its shards are repeated.

Ray's own retries are not used: a task of an actor whose node is lost would wait for that actor while other workers
are idle.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

from recbole_blair.errors import InputError
from recbole_blair.train.display import say

IN_FLIGHT = 2  # shards a worker has: the one it works on and the next
MAX_LOSSES = 4  # times that work may be lost with its worker before the work is blamed
LOOK_AGAIN_S = 20.0  # without a worker, after which the screen says that one is waited for
Running = dict[Any, tuple[Any, int]]  # Ray's reference of a result: the worker (actor) and the number of its shard


class WorkerPool:
    """A fixed number of workers.

    Args:
        start: starts a worker and its loading; returns (actor, reference to what `joined` takes).
        joined: called with what a worker returns when it has loaded; raises if it does not fit the others.
        size: workers wanted.
        call: (actor, shard) -> reference to its result.
    """

    def __init__(
        self,
        start: Callable[[], tuple[Any, Any]],
        joined: Callable[[Any], object],
        size: int,
        call: Callable[[Any, Any], Any],
    ) -> None:
        self.start, self.joined, self.size, self.call = start, joined, size, call
        self.starting: dict[Any, Any] = {}  # reference -> actor
        self.ready: list[Any] = []
        self.lost_starts = 0

    def __enter__(self) -> WorkerPool:
        """Load the first worker, whose errors every worker would have; then start the others."""
        try:
            self._start()
            while not self.ready:
                self._wait([])
            for _ in range(self.size - 1):
                self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        import ray  # heavy

        for actor in [*self.ready, *self.starting.values()]:
            with contextlib.suppress(Exception):  # Ray may have ended before
                ray.kill(actor)
        self.ready, self.starting = [], {}

    def work(self, shards: Any) -> Iterator[tuple[int, Any]]:
        """Process shards.

        Args:
            shards: has a length and items by number; each is given to `call`, more than once if a worker is lost.

        Yields:
            (int, result): number of the shard, as they are finished.

        Raises:
            InputError: what a worker refused; or a shard whose workers were lost `MAX_LOSSES` times.
        """
        import ray  # heavy

        waiting, losses = deque(range(len(shards))), Counter[int]()
        running: Running = {}
        while waiting or running:
            self._hand_out(shards, waiting, running)
            for ref in self._wait(list(running)):
                if ref not in running:
                    continue  # its worker was found lost a moment ago
                actor, number = running[ref]
                try:
                    result = ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    raise refusal(error) from error
                except ray.exceptions.RayError as error:
                    self._replace(actor, error, waiting, running, losses)
                    continue
                del running[ref], ref
                yield number, result

    def _hand_out(self, shards: Any, waiting: deque[int], running: Running) -> None:
        """Give every worker one shard, then a second one."""
        for depth in range(IN_FLIGHT):
            for actor in self.ready:
                if waiting and sum(a is actor for a, _ in running.values()) <= depth:
                    number = waiting.popleft()
                    running[self.call(actor, shards[number])] = actor, number

    def _wait(self, refs: list) -> list:
        """Wait for a shard or a worker; workers that have loaded join. Returns the refs of finished shards."""
        import ray  # heavy

        since: float | None = time.monotonic()
        while True:
            done, _ = ray.wait([*refs, *self.starting], num_returns=1, timeout=LOOK_AGAIN_S)
            if done:
                break
            if not self.ready and since is not None and time.monotonic() - since >= LOOK_AGAIN_S:
                say("waiting for a worker: it loads, or the cluster's CPUs and GPUs are in use")
                since = None
        for ref in [ref for ref in done if ref in self.starting]:
            self._join(ref)
        return [ref for ref in done if ref in refs]

    def _start(self) -> None:
        actor, ref = self.start()
        self.starting[ref] = actor

    def _join(self, ref: Any) -> None:
        import ray  # heavy

        actor = self.starting.pop(ref)
        try:
            self.joined(ray.get(ref))
        except ray.exceptions.RayTaskError as error:
            ray.kill(actor)
            raise refusal(error) from error
        except ray.exceptions.RayError as error:
            self.lost_starts += 1
            if self.lost_starts > MAX_LOSSES * self.size:
                raise InputError(f"workers end while they load ({first_line(error)}); is there memory for them?") from (
                    error
                )
            self._start()
        else:
            self.ready.append(actor)

    def _replace(
        self, actor: Any, error: Exception, waiting: deque[int], running: Running, losses: Counter[int]
    ) -> None:
        """Return a lost worker's shards to the queue, count the loss of the first one, and start another worker."""
        import ray  # heavy

        back = [(ref, number) for ref, (owner, number) in running.items() if owner is actor]
        for ref, number in reversed(back):
            del running[ref]
            waiting.appendleft(number)
        self.ready = [other for other in self.ready if other is not actor]
        with contextlib.suppress(Exception):
            ray.kill(actor)
        first = back[0][1]
        losses[first] += 1
        if losses[first] >= MAX_LOSSES:
            raise InputError(
                f"shard {first} was lost {MAX_LOSSES} times with the worker that had it ({first_line(error)}); if they "
                "ran out of memory, lower --batch_tokens, then run the same command again: it goes on where it was"
            )
        say(f"a worker was lost ({first_line(error)}); its shards go to another one")
        self._start()


def refusal(error: Any) -> Exception:
    """Return the InputError that a worker raised, or, for other errors, Ray's, which holds the worker's traceback."""
    return error.cause if isinstance(error.cause, InputError) else error


def first_line(error: object) -> str:
    """Return the first line of one of Ray's errors, without its final full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:")[:200]
