"""Termination of child processes together with their parent, however it ends."""

import os
import threading
import time

# Seconds between checks that the parent process still runs.
WATCH_SECONDS = 0.5


def end_with(parent: int) -> None:
  """Makes this process exit once its parent process has ended, even if killed.

  `parent` is the id of the parent process, passed by the parent itself. A child that
  asks for its parent's id may already have been adopted by another process.
  """

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(WATCH_SECONDS)
    os._exit(1)  # no process waits for the results

  threading.Thread(target=watch, daemon=True).start()
