"""The pool's book-keeping, with a Ray of a few lines: what is lost is redone once, what is refused is said."""

import sys
from types import SimpleNamespace

import pytest

from recbole_blair.cluster.pool import MAX_LOSSES, WorkerPool
from recbole_blair.errors import InputError


class RayError(Exception):
    """Something Ray lost."""


class RayTaskError(RayError):
    """What a task raised."""

    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class Actor:
    """A worker that can be killed."""

    def __init__(self):
        self.alive = True


class Ref:
    """A task's result, made when it is asked for; a dead worker gives none."""

    def __init__(self, actor, make):
        self.actor, self.make = actor, make

    def get(self):
        if not self.actor.alive:
            raise RayError("The actor died.\nbecause its node did")
        return self.make()


class World:
    """Workers, the shards they were given, and what happens to them."""

    def __init__(self, size, fate=lambda actor, shard: None):
        self.actors, self.calls, self.fate = [], [], fate
        self.pool = WorkerPool(self.start, lambda about: None, size, self.call)

    def start(self):
        actor = Actor()
        self.actors.append(actor)
        return actor, Ref(actor, lambda: "loaded")

    def call(self, actor, shard):
        self.calls.append(shard)

        def make():
            self.fate(actor, shard)
            if not actor.alive:
                raise RayError("The actor died.")
            return shard * 10

        return Ref(actor, make)


@pytest.fixture(autouse=True)
def ray(monkeypatch):
    def kill(actor):
        actor.alive = False

    def wait(refs, num_returns, timeout):
        return refs[:1], refs[1:]

    fake = SimpleNamespace(
        wait=wait, get=lambda ref: ref.get(), kill=kill,
        exceptions=SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", fake)


def test_every_shard_is_worked_once():
    world = World(3)
    with world.pool as pool:
        assert dict(pool.work(range(10))) == {n: n * 10 for n in range(10)}
    assert sorted(world.calls) == list(range(10)) and len(world.actors) == 3
    assert not any(actor.alive for actor in world.actors)


def test_shards_of_a_lost_worker_are_redone_and_it_is_replaced(capsys):
    def fate(actor, shard):
        if shard == 4 and actor is world.actors[0]:
            actor.alive = False

    world = World(1, fate)
    with world.pool as pool:
        results = list(pool.work(range(8)))
    assert sorted(results) == [(n, n * 10) for n in range(8)]
    assert len(world.actors) == 2 and sorted(world.calls) == [0, 1, 2, 3, 4, 4, 5, 5, 6, 7]
    assert capsys.readouterr().err.count("a worker was lost") == 1


def test_a_shard_that_ends_every_worker_is_blamed(capsys):
    def fate(actor, shard):
        if shard == 2:
            actor.alive = False

    world = World(2, fate)
    with world.pool as pool, pytest.raises(InputError, match=f"shard 2 was lost {MAX_LOSSES} times .* --batch_tokens"):
        list(pool.work(range(5)))
    assert not any(actor.alive for actor in world.actors)


def test_a_workers_refusal_comes_through_and_ends_the_others():
    def fate(actor, shard):
        raise RayTaskError(InputError("the text in row 7 gives no token"))

    world = World(2, fate)
    with world.pool as pool, pytest.raises(InputError, match=r"^the text in row 7 gives no token$"):
        list(pool.work(range(5)))
    assert not any(actor.alive for actor in world.actors)


def test_workers_that_never_load_end_the_run():
    world = World(2)
    world.start = lambda: (actor := Actor(), Ref(actor, lambda: (_ for _ in ()).throw(RayError("out of memory"))))
    world.pool.start = world.start
    with pytest.raises(InputError, match=r"workers end while they load \(out of memory\)"), world.pool:
        pass


def test_nothing_to_do_is_nothing():
    with World(2).pool as pool:
        assert list(pool.work([])) == []
