"""Makes `python -m big_vision_like` the same as `bvl`."""

from big_vision_like import commands

if __name__ == '__main__':
  raise SystemExit(commands.main())
