"""What processes that work for another one have in common."""

import os
import threading
import time

# How often a worker looks whether its program still runs.
WATCH_SECONDS = 0.5


def end_with(parent: int) -> None:
  """Lets this process end when the one that started it is gone, even if killed."""

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(WATCH_SECONDS)
    os._exit(1)  # nobody waits for the rest

  threading.Thread(target=watch, daemon=True).start()
