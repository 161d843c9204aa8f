"""What may be asked, with its limits: the bodies of the requests, from which the OpenAPI description is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_USERS = 100  # per request
MAX_HISTORY = 2000  # events of one history; a model sees the latest MAX_ITEM_LIST_LENGTH
MAX_TOP = 1000
MAX_IDS = 10_000  # of allow and block
MAX_SIMILAR = 100  # items whose neighbours are asked for
MAX_SCORES = 100_000  # users x items
MAX_NEW_ITEMS = 100  # per request
MAX_TEXT = 20_000  # characters of a field of a new item
MAX_TIME = 10**15  # Unix ms; larger numbers do not fit where times are kept

Id = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Time = Annotated[int, Field(ge=0, le=MAX_TIME)]
Query = Annotated[str, StringConstraints(max_length=500)]
Where = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Top = Annotated[int, Field(ge=1, le=MAX_TOP)]
Run = Literal["checkpoint", "compare"]
Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Texts = Text | Annotated[list[Text], Field(max_length=100)]


class Body(BaseModel):
    """A body without keys that nothing reads."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


class User(Body):
    """Somebody with a history, the oldest event first; without `item_id_list` a user of the build."""

    user_id: Id = "visitor"
    item_id_list: Annotated[list[Id], Field(max_length=MAX_HISTORY)] | None = None
    timestamp_list: Annotated[list[Time], Field(max_length=MAX_HISTORY)] | None = None
    timestamp: Time | None = None

    def record(self) -> dict[str, Any]:
        """Return the mapping that `recommend` takes."""
        return self.model_dump(exclude_none=True)


Users = Annotated[list[User | Id], Field(min_length=1, max_length=MAX_USERS)]


class Filtered(Body):
    """What limits the items; see `docs/recommend.md`."""

    run: Run = "checkpoint"
    top: Top = 10
    allow: Annotated[list[Id], Field(max_length=MAX_IDS)] | None = None
    block: Annotated[list[Id], Field(max_length=MAX_IDS)] | None = None
    where: Where | None = None
    skip_unknown: bool = False


class RecommendBody(Filtered):
    """The best items for users."""

    users: Users
    exclude_history: bool | None = None  # left out: leave it out, unless the build keeps repeats
    request_time: Annotated[str, StringConstraints(max_length=40)] | None = None


class SimilarBody(Filtered):
    """The items nearest to given ones."""

    items: Annotated[list[Id], Field(min_length=1, max_length=MAX_SIMILAR)]
    by: Literal["model", "text"] = "model"


class ScoreBody(Body):
    """Scores of given items for users."""

    run: Run = "checkpoint"
    users: Users
    items: Annotated[list[Id], Field(min_length=1, max_length=MAX_IDS)]
    request_time: Annotated[str, StringConstraints(max_length=40)] | None = None


class NewItem(Body):
    """An item that training never saw, as raw metadata have it."""

    item_id: Id
    title: Texts | None = None
    features: Texts | None = None
    categories: Texts | None = None
    description: Texts | None = None
    store: Text | None = None
    price: Annotated[str, StringConstraints(max_length=40)] | None = None


class NewItemsBody(Body):
    """Items to add to the catalogue, until the server ends."""

    items: Annotated[list[NewItem], Field(min_length=1, max_length=MAX_NEW_ITEMS)]


class SearchQuery(BaseModel):
    """A search of the catalogue by words."""

    model_config = ConfigDict(extra="forbid")

    q: Query
    run: Run = "checkpoint"
    top: Top = 10
    where: Where | None = None


def users_of(users: list[User | str]) -> list[Any]:
    """Return ids and mappings as `recommend` takes them."""
    return [user if isinstance(user, str) else user.record() for user in users]
