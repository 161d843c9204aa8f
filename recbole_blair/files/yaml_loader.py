"""YAML as this project reads it: plain values only, `1e-3` is a number, dates stay text, nothing grows or runs.

    yaml.load(text, Loader=YamlLoader)  # raises yaml.YAMLError, whatever is wrong with the text

Numbers are those of YAML 1.2: `010` and `1:30` are text here (YAML 1.1 reads them as 8 and 90).
"""

from __future__ import annotations

import re

import yaml

MAX_DEPTH = 32  # of lists and mappings in each other; PyYAML recurses, so some 300 would end in a RecursionError
MAX_NODES = 200_000  # values with aliases written out: ten lines of aliases stand for 10^9 values
TIMESTAMP, INTEGER, FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("timestamp", "int", "float"))


class YamlLoader(yaml.SafeLoader):
    """The loader described above."""

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self.depth, self.n_nodes = 0, 0
        self.anchor_sizes: dict[str, int] = {}  # nodes below each anchor that is complete

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one value, with limits on depth and on the number of values."""
        event, before = self.peek_event(), self.n_nodes
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self.anchor_sizes:
                raise yaml.YAMLError(f"the alias *{event.anchor} stands inside its own value, {event.start_mark}")
            self.n_nodes += self.anchor_sizes.get(str(event.anchor), 1)
        self.depth, self.n_nodes = self.depth + 1, self.n_nodes + 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"more than {MAX_DEPTH} lists or mappings inside each other, {event.start_mark}")
        if self.n_nodes > MAX_NODES:
            raise yaml.YAMLError(f"more than {MAX_NODES:,} values (aliases count as what they stand for)")
        node = super().compose_node(parent, index)
        self.depth -= 1
        if not isinstance(event, yaml.AliasEvent) and event.anchor is not None:
            self.anchor_sizes[event.anchor] = self.n_nodes - before
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """Build one value; `!!int x` and its like are YAML errors, too."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise yaml.YAMLError(
                f"not a value of its type ({node.tag.rpartition(':')[2]}), {node.start_mark}"
            ) from error


YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (TIMESTAMP, INTEGER, FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
YamlLoader.add_implicit_resolver(INTEGER, re.compile(r"^[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
YamlLoader.add_implicit_resolver(
    FLOAT,
    re.compile(r"^[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
               r"|\.(inf|Inf|INF))$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)  # fmt: skip
YamlLoader.add_constructor(TIMESTAMP, yaml.SafeLoader.construct_yaml_str)  # type: ignore[type-var]
