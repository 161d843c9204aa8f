"""The runs that are served, and the work on a batch of requests: what `recommend` computes, bit for bit."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from recbole_blair.errors import InputError
from recbole_blair.recommend.new_items import reads_texts
from recbole_blair.recommend.selection import MODEL, POPULARITY, Filters, pick_items
from recbole_blair.recommend.similar import find_similar
from recbole_blair.schema import ITEM_ID, USER_ID
from recbole_blair.serve import requests
from recbole_blair.serve.word_search import WordSearch
from recbole_blair.train.run_folder import METRICS

if TYPE_CHECKING:
    from recbole_blair.recommend.recommender import Recommender
    from recbole_blair.recommend.users import Histories
    from recbole_blair.serve.batching import Job

MAX_ADDED = 1000  # new items that a server takes in all


def identity(folder: Path | str) -> tuple[str, int, int] | None:
    """Return what tells a finished run from another one in its place; None where there is none (yet)."""
    path = Path(os.path.realpath(folder))  # a loop of links stays as it is; Path.resolve() raises for it
    try:
        about = (path / METRICS).stat()
    except OSError:
        return None
    return str(path), about.st_mtime_ns, about.st_ino


class Engine:
    """One run that is served.

    Args:
        recommender: of the run.
        run: checkpoint or compare.
    """

    def __init__(self, recommender: Recommender, run: str) -> None:
        self.recommender, self.scorer, self.run = recommender, recommender.scorer, run
        self.catalogue = self.scorer.catalogue
        self.words = WordSearch(self.catalogue)
        self.seen = self.scorer.dataset.seen_items("train")  # (N,) bool; items that are added are not in it
        if self.scorer.scores_by_dot_product:
            self.scorer.tables()

    def describe(self) -> dict[str, Any]:
        """Return what `/health` says of the run."""
        run, catalogue = self.scorer.run, self.catalogue
        return {
            "run": self.run, "name": run.folder.resolve().name, "model": run.info.name, "dataset": run.dataset.name,
            "encoder": run.encoder, "items": len(catalogue), "added": len(catalogue) - catalogue.n_known,
            "columns": list(catalogue.kinds),
        }  # fmt: skip

    def item(self, code: int, score: float) -> dict[str, Any]:
        """Return what a page shows of an item; cold: no row of training held it."""
        cold = code >= len(self.seen) or not self.seen[code]
        about = {ITEM_ID: self.catalogue.ids[code - 1], "title": self.catalogue.titles[code - 1]}
        return {**about, "score": score, "cold": bool(cold)}

    # Recommending has two steps: histories and filters of each request, then scores of all requests together.

    def open_request(self, body: requests.RecommendBody) -> tuple[Histories, Any]:
        """Return the histories and the mask of a request."""
        filters = Filters(body.allow, body.block, body.where, body.skip_unknown)
        users = requests.users_of(body.users)
        histories = self.scorer.load_users(users, body.request_time, True, body.skip_unknown)
        return histories, self.scorer.mask(filters)

    def answer(self, body: requests.RecommendBody, histories: Histories, mask: Any, scored: Sequence[Any]) -> Any:
        """Return the answer of a request from its scores, one tensor (B, N) per chunk of users."""
        users, leave_out = [], self.scorer.leaves_out_history(body.exclude_history)
        for rows, scores in zip(self.scorer.split_rows(histories), scored):
            best = pick_items(scores, histories, rows, body.top, leave_out, mask)
            items, values = (x.cpu().tolist() for x in best)
            for row, codes, own in zip(rows.tolist(), items, values):
                source = MODEL if histories.filled[row] else POPULARITY
                about = {USER_ID: histories.user_ids[row], "source": source, "left_out": int(histories.left_out[row])}
                found = [self.item(code, score) for code, score in zip(codes, own) if code]
                users.append({**about, "items": found})
        return {"run": self.run, "users": users}

    def similar(self, body: requests.SimilarBody) -> dict[str, Any]:
        """Return the neighbours of items."""
        filters = Filters(body.allow, body.block, body.where, body.skip_unknown)
        frame = find_similar(self.scorer, list(dict.fromkeys(body.items)), body.top, body.by, filters)
        found: dict[str, list[dict[str, Any]]] = {}
        for item_id, _, near, _, score in frame.itertuples(index=False):
            found.setdefault(item_id, []).append(self.item(self.catalogue.codes[near], float(score)))
        return {"run": self.run, "items": [{ITEM_ID: item_id, "similar": near} for item_id, near in found.items()]}

    def score(self, body: requests.ScoreBody) -> dict[str, Any]:
        """Return scores of items for users."""
        if len(body.users) * len(body.items) > requests.MAX_SCORES:
            raise InputError(
                f"{len(body.users)} users x {len(body.items)} items: at most {requests.MAX_SCORES:,} scores"
            )
        scores = self.recommender.score(requests.users_of(body.users), body.items, body.request_time)
        return {"run": self.run, "scores": scores.tolist()}

    def search(self, query: requests.SearchQuery) -> dict[str, Any]:
        """Return the items that hold words."""
        mask = Filters(where=query.where).mask(self.catalogue)
        return {"run": self.run, "items": [self.item(*found) for found in self.words.find(query.q, query.top, mask)]}


@dataclass
class EncodedItems:
    """New items: as they were given, their vectors and columns for each run that takes them, why others do not."""

    records: list[dict[str, Any]]
    encoded: list[tuple[Engine, tuple[Any, list[str], list[dict[str, str]]]]]
    refused: dict[str, str]


@dataclass
class Serving:
    """The runs and the work on them; all but loading and encoding happens in the batcher's thread.

    Attributes:
        load: opens a run's folder, for the start and for newer runs.
        folders: of the runs, by `checkpoint` and `compare`.
        engines: of those folders as they were last loaded.
        loaded: what was loaded, see `identity`.
        added: new items, which a newer run gets, too.
        encoding: held while new items are encoded, one request after the other.
        threads: PyTorch's. A thread that begins while another computes a few users would get one, see `threads_for`.
    """

    load: Callable[[str], Recommender]
    folders: dict[str, str]
    engines: dict[str, Engine] = field(default_factory=dict)
    loaded: dict[str, Any] = field(default_factory=dict)
    added: list[dict[str, Any]] = field(default_factory=list)
    encoding: threading.Lock = field(default_factory=threading.Lock)
    threads: int = field(default_factory=torch.get_num_threads)

    def open(self, run: str) -> tuple[Engine, Any]:
        """Load the run of a folder with the items that were added."""
        torch.set_num_threads(self.threads)
        what = identity(self.folders[run])
        recommender = self.load(os.path.realpath(self.folders[run]))  # a link may be moved while it is read
        engine = Engine(recommender, run)
        self.give_added(engine)
        return engine, what

    def start(self) -> None:
        """Load all runs."""
        for run in self.folders:
            self.exchange(run, *self.open(run))

    def exchange(self, run: str, engine: Engine, what: Any) -> None:
        """Serve an engine from now on."""
        self.give_added(engine)  # what was added while it was loaded
        self.engines[run], self.loaded[run] = engine, what

    def give_added(self, engine: Engine) -> None:
        """Add the items that other engines were given and that this one's catalogue lacks."""
        missing = [item for item in self.added if item[ITEM_ID] not in engine.catalogue.codes]
        if missing and self.takes_items(engine):
            engine.recommender.add_items(missing)

    def outdated(self) -> list[str]:
        """Return the runs in whose folders another finished run stands."""
        found = {run: identity(folder) for run, folder in self.folders.items()}
        return [run for run, what in found.items() if what is not None and what != self.loaded.get(run)]

    def work(self, jobs: Sequence[Job]) -> None:
        """Answer jobs: one by one, but for recommendations, which are scored together."""
        waiting: dict[str, list[Job]] = {}
        for job in jobs:
            try:
                if job.kind == "recommend":
                    engine = self.engine(job.body.run)
                    job.state["opened"] = engine.open_request(job.body)
                    waiting.setdefault(job.body.run, []).append(job)
                elif job.kind == "exchange":
                    self.recommend(waiting)
                    self.exchange(*job.body)
                elif job.kind == "items":
                    self.recommend(waiting)
                    job.answer = self.add_items(job.body)
                else:
                    job.answer = getattr(self.engine(job.body.run), job.kind)(job.body)
            except Exception as error:
                job.error = error
        self.recommend(waiting)

    def engine(self, run: str) -> Engine:
        """Return the engine of a run."""
        if run not in self.engines:
            raise InputError(f"run={run}: this server has {', '.join(self.engines)} alone; start it with --compare")
        return self.engines[run]

    def recommend(self, waiting: dict[str, list[Job]]) -> None:
        """Score and answer requests, as many at once as `max_score_elements` allows."""
        for run, jobs in waiting.items():
            engine = self.engines[run]
            largest = engine.scorer.config["max_score_elements"] // (len(engine.catalogue) + 1)
            group: list[Job] = []
            for job in jobs:
                users = len(job.state["opened"][0])
                if group and sum(len(other.state["opened"][0]) for other in group) + users > largest:
                    recommend_together(engine, group)
                    group = []
                group.append(job)
            recommend_together(engine, group)
        waiting.clear()

    def takes_items(self, engine: Engine) -> bool:
        """True for a run of a text model."""
        return reads_texts(engine.scorer.model)

    def encode_items(self, body: requests.NewItemsBody) -> EncodedItems:
        """Encode new items for every run that takes any; in a thread of its own, since it may take seconds."""
        records = [item.model_dump(exclude_none=True) for item in body.items]
        takers = [engine for engine in self.engines.values() if self.takes_items(engine)]
        if not takers:
            raise InputError("no run of this server takes new items: their models know items by their ids alone")
        encoded, refused = [], {}
        torch.set_num_threads(self.threads)
        with self.encoding:
            for engine in takers:
                try:
                    encoded.append((engine, engine.scorer.encode_items(records)))
                except InputError as error:
                    refused[engine.run] = str(error)
        if not encoded:
            raise InputError(next(iter(refused.values())))
        return EncodedItems(records, encoded, refused)

    def add_items(self, new: EncodedItems) -> dict[str, Any]:
        """Add items that were encoded."""
        if len(self.added) + len(new.records) > MAX_ADDED:
            raise InputError(f"{len(self.added)} items were added; a server takes {MAX_ADDED} in all")
        ids = [item[ITEM_ID] for item in new.records]
        for engine, _ in new.encoded:
            if twice := [item_id for item_id in ids if item_id in engine.catalogue.codes]:
                raise InputError(f"the item {twice[0]!r} is in the catalogue already; give it another id")
        self.added += new.records
        for engine, parts in new.encoded:
            if engine is self.engines[engine.run]:
                engine.scorer.add_items(*parts)
            else:  # a newer run has taken over in between
                self.give_added(self.engines[engine.run])
        return {"added": ids, "runs": [engine.run for engine, _ in new.encoded], "refused": new.refused}


def recommend_together(engine: Engine, jobs: Sequence[Job]) -> None:
    """Score the users of several requests together and answer each; a request that fails leaves the others alone."""
    if not jobs:
        return
    parts = [
        [(job.state["opened"][0], rows) for rows in engine.scorer.split_rows(job.state["opened"][0])] for job in jobs
    ]
    try:
        scores = iter(engine.scorer.score_many([part for own in parts for part in own]))
        scored = [[next(scores) for _ in own] for own in parts]
    except Exception as error:
        if len(jobs) == 1:
            jobs[0].error = error
            return
        for job in jobs:
            recommend_together(engine, [job])
        return
    for job, own in zip(jobs, scored):
        try:
            histories, mask = job.state["opened"]
            job.answer = engine.answer(job.body, histories, mask, own)
        except Exception as error:
            job.error = error
