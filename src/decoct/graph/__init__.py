"""Which dimensions of a model's tensors can be cut, and what must be cut together: from one forward to groups."""

from decoct.graph.groups import Frozen, Graph, Group, Member, groups

__all__ = ["Frozen", "Graph", "Group", "Member", "groups"]
