"""How processes that work for another one end with it, however it ends."""

import os
import threading
import time

# How often a process looks whether the one that started it still runs.
WATCH_SECONDS = 0.5


def end_with(parent: int) -> None:
  """Lets this process end when the one that started it is gone, even if killed.

  `parent` is the id that this one passed on: a process that asks for the id of its
  parent may already have another.
  """

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(WATCH_SECONDS)
    os._exit(1)  # nobody waits for the rest

  threading.Thread(target=watch, daemon=True).start()
