"""What the imports made is never looked through again; what comes later is."""

import subprocess
import sys

SETTLED = """
import gc, weakref
from backstop.runtime.process.garbage import YOUNG_OBJECTS_MAX, settle_garbage_collector
import backstop.runtime.kafka.topics
settle_garbage_collector()
class Node: pass
def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)
lost = cycle()
made = [[] for _ in range(2 * YOUNG_OBJECTS_MAX)]
print(gc.get_freeze_count() > 10_000, len(gc.get_objects()) - len(made) < 10_000, lost() is None)
"""


def test_a_settled_process_collects_what_is_new_and_leaves_its_imports_alone() -> None:
    done = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "True", "True"]
