#!/usr/bin/python
# Copyright: the Weir authors
# Apache License 2.0 (see LICENSE)
"""Waits until a node says of itself what it should."""

DOCUMENTATION = r"""
module: gate
short_description: Wait until a Weir node is ready and its metrics are as they should be
description:
  - Asks a node's C(/ready), C(/health) and C(/metrics) until all conditions hold, or fails with those that do not.
  - Runs on the node's own host, so its metrics may stay on the loopback interface. Changes nothing.
version_added: 0.1.0
author:
  - The Weir authors (@weir)
options:
  url:
    description: Where the node's pages are, without a path.
    type: str
    required: true
  ready:
    description: Whether C(/ready) must say yes, and no configuration be refused.
    type: bool
    default: true
  version:
    description: The version that C(/health) must name.
    type: str
  metrics:
    description:
      - Conditions on samples of C(/metrics). Each sample that fits name and labels must fit the bounds.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The metric.
        type: str
        required: true
      labels:
        description: Labels that a sample must have to be looked at.
        type: dict
        default: {}
      min:
        description: The least value. There must be a sample then.
        type: float
      max:
        description: The greatest value.
        type: float
  timeout:
    description: Seconds to wait.
    type: int
    default: 60
attributes:
  check_mode:
    description: Does not wait in check mode, as what it waits for was not done.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Wait until the group's log is empty
  weir.weir.gate:
    url: http://127.0.0.1:24220
    timeout: 600
    metrics:
      - name: weir_log_batches
        labels: {group: app}
        max: 0
"""

RETURN = r"""
seconds:
  description: How long it took.
  returned: always
  type: float
"""

import json
import re
import time
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from ansible.module_utils.basic import AnsibleModule

SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


def fetch(url):
    """The text of a page, also of one that says no."""
    try:
        with urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    except HTTPError as error:
        return error.read().decode()


def samples(text):
    """All samples of a page in the Prometheus text format, as (name, labels, value)."""
    for line in text.splitlines():
        match = SAMPLE.match(line)
        if match:
            yield match.group(1), dict(LABEL.findall(match.group(2) or "")), float(match.group(3))


def judge(condition, page):
    """What is wrong with the page by one condition."""
    name, wanted = condition["name"], condition["labels"].items()
    shown = name + "{" + ", ".join("%s=%s" % pair for pair in wanted) + "}" if wanted else name
    found = [(labels, value) for metric, labels, value in page if metric == name and wanted <= labels.items()]
    if not found and condition["min"] is not None:
        return ["there is no %s yet" % shown]
    problems = []
    for labels, value in found:
        place = name + str(labels) if labels else name
        if condition["min"] is not None and value < condition["min"]:
            problems.append("%s is %g, wanted at least %g" % (place, value, condition["min"]))
        if condition["max"] is not None and value > condition["max"]:
            problems.append("%s is %g, wanted at most %g" % (place, value, condition["max"]))
    return problems


def look(params):
    """All that is not as it should be."""
    problems = []
    try:
        if params["ready"]:
            ready = json.loads(fetch(params["url"] + "/ready"))
            if not ready["ready"]:
                reasons = [one.get("reason", one["name"]) for one in ready["conditions"] if not one["ok"]]
                problems.append("not ready: " + ("; ".join(reasons) or "it has just begun"))
        health = json.loads(fetch(params["url"] + "/health"))
        if params["ready"] and "configuration" in health.get("notes", {}):
            problems.append("configuration: %s" % health["notes"]["configuration"])
        if params["version"]:
            version = health["version"]
            if version != params["version"]:
                problems.append("version %s runs, wanted %s" % (version, params["version"]))
        if params["metrics"]:
            page = list(samples(fetch(params["url"] + "/metrics")))
            for condition in params["metrics"]:
                problems += judge(condition, page)
    except (URLError, OSError) as error:
        problems.append("%s does not answer: %s" % (params["url"], error))
    except (ValueError, KeyError, TypeError) as error:
        problems.append("%s answers what no Weir node says: %r" % (params["url"], error))
    return problems


def main():
    condition = {
        "name": {"type": "str", "required": True},
        "labels": {"type": "dict", "default": {}},
        "min": {"type": "float"},
        "max": {"type": "float"},
    }
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "ready": {"type": "bool", "default": True},
            "version": {"type": "str"},
            "metrics": {"type": "list", "elements": "dict", "default": [], "options": condition},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, seconds=0.0)
    began = time.monotonic()
    while True:
        problems = look(module.params)
        waited = time.monotonic() - began
        if not problems:
            module.exit_json(changed=False, seconds=round(waited, 1))
        if waited >= module.params["timeout"]:
            module.fail_json(
                msg="after %d s: %s" % (waited, "; ".join(problems)), seconds=round(waited, 1)
            )
        time.sleep(0.5)


if __name__ == "__main__":
    main()
