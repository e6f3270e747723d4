# Copyright: the Weir authors
# Apache License 2.0 (see LICENSE)
"""The order in which a fleet is touched."""

DOCUMENTATION = r"""
name: rounds
short_description: Order nodes so that no two of a group are touched at once
description:
  - Takes nodes and returns a list of rounds, each a list of node names that may be worked on at the same time.
  - Rack follows rack. Within a rack, a round holds at most one node of each group, and sinks or edges but never both, as
    a sink that drains needs the edges, and an edge that drains needs the sinks.
  - Two racks are never mixed in one round, so at most one rack is touched at any moment.
options:
  _input:
    description: Nodes, each a dictionary with C(name), C(rack), C(group) and C(role).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Two rounds for rack r1, as app-1 and app-2 are of one group
  ansible.builtin.debug:
    msg: "{{ nodes | weir.weir.rounds }}"
  vars:
    nodes:
      - {name: app-1, rack: r1, group: app, role: sink}
      - {name: app-2, rack: r1, group: app, role: sink}
      - {name: sys-1, rack: r1, group: sys, role: sink}
"""

RETURN = r"""
_value:
  description: Rounds, in order, each a list of names.
  type: list
"""


def rounds(nodes):
    """Rack by rack, sinks before edges, the first of each group, then the second of each group, and so on."""
    tiers = {}
    for node in sorted(nodes, key=lambda node: (str(node["rack"]), node["role"] != "sink", node["role"], node["name"])):
        groups = tiers.setdefault((str(node["rack"]), node["role"]), {})
        groups.setdefault(node["group"], []).append(node["name"])
    result = []
    for groups in tiers.values():
        for turn in range(max(len(names) for names in groups.values())):
            result.append([names[turn] for names in groups.values() if turn < len(names)])
    return result


class FilterModule:
    """What Ansible looks for."""

    def filters(self):
        return {"rounds": rounds}
