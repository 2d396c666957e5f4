"""Entry point of `python -m big_vision_like`, which is the same command as `bvl`."""

from big_vision_like import commands

if __name__ == '__main__':
  raise SystemExit(commands.main())
