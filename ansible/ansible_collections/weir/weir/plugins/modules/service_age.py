#!/usr/bin/python
# Copyright: the Weir authors
# Apache License 2.0 (see LICENSE)
"""Tells whether a service runs what is on the disk."""

DOCUMENTATION = r"""
module: service_age
short_description: Tell whether a service is older than the files it was started from
description:
  - Compares the start of a service's main process, or of a socket, with the change times of files. It depends on nothing that an
    earlier run may have forgotten, so a run that broke off between a new file and the restart is caught up by the next.
version_added: 0.1.0
author:
  - The Weir authors (@weir)
options:
  unit:
    description: The unit.
    type: str
    required: true
  files:
    description: Files that the service reads at its start. A file that is not there is not looked at.
    type: list
    elements: path
    required: true
attributes:
  check_mode:
    description: Only looks.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Look whether the edge runs the program on the disk
  weir.weir.service_age:
    unit: weir-edge.service
    files: [/usr/bin/weir, /etc/weir/edge.toml]
  register: age
"""

RETURN = r"""
running:
  description: Whether the service runs.
  returned: always
  type: bool
stale:
  description: Whether it runs, and a file is newer than its start.
  returned: always
  type: bool
newer:
  description: The files that are newer.
  returned: always
  type: list
"""

import os
from datetime import datetime, timezone

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "path", "required": True},
        },
        supports_check_mode=True,
    )
    began = "ActiveEnterTimestamp" if module.params["unit"].endswith(".socket") else "ExecMainStartTimestamp"
    show = ["systemctl", "show", "--timestamp=us+utc", "-p", "ActiveState," + began]
    _code, out, _err = module.run_command(show + [module.params["unit"]], check_rc=True)
    shown = dict(line.split("=", 1) for line in out.splitlines())
    newer = []
    running = shown["ActiveState"] in ("active", "activating", "reloading") and bool(shown[began])
    if running:
        # "Wed 2026-01-28 13:16:01.123456 UTC"; the day's name goes with the locale.
        _day, date, time, _zone = shown[began].split()
        start = datetime.strptime(date + " " + time, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=timezone.utc)
        for path in module.params["files"]:
            # The change time, as packages set the modification time to that of their build.
            if os.path.exists(path) and os.stat(path).st_ctime > start.timestamp():
                newer.append(path)
    module.exit_json(changed=False, running=running, stale=bool(newer), newer=newer)


if __name__ == "__main__":
    main()
