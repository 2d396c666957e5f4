"""CRC-32C (Castagnoli, RFC 3720 appendix B.4) with NumPy, about 0.4 GB/s.

The checksum is linear over bits. The effect of each byte at each place of a block is
therefore looked up in a table, and blocks are combined pairwise.
"""

import functools

import numpy as np

POLYNOMIAL = 0x82F63B78  # bits reversed
BLOCK = 256
PIECE = 512 * BLOCK  # bytes looked up at once; more would not fit in the cache


def checksum(data: bytes) -> int:
  """Returns the CRC-32C of any number of bytes."""
  register = 0xFFFFFFFF
  whole = len(data) - len(data) % BLOCK
  for start in range(0, whole, PIECE):
    count = min(PIECE, whole - start)
    piece = np.frombuffer(data, np.uint8, count, start).copy()
    piece[:4] ^= np.frombuffer(register.to_bytes(4, 'little'), np.uint8)
    register = _after(piece.reshape(-1, BLOCK))
  table = _byte_list()
  for byte in data[whole:]:
    register = table[(register ^ byte) & 255] ^ (register >> 8)
  return register ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
  """Returns the CRC-32C as TensorFlow stores it, in TFRecords and checkpoints."""
  found = checksum(data)
  return ((found >> 15 | found << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _after(blocks: np.ndarray) -> int:
  """Returns the register after uint8 blocks (n, BLOCK), starting from 0."""
  table = _places()
  places = blocks + np.arange(0, table.size, 256)
  registers = np.bitwise_xor.reduce(table.take(places), axis=1)
  level = 0
  while len(registers) > 1:
    if len(registers) % 2:  # leading zeros change nothing
      registers = np.concatenate([np.zeros(1, np.uint32), registers])
    registers = _advanced(registers[::2], _zeros(level)) ^ registers[1::2]
    level += 1
  return int(registers[0])


def _advanced(registers: np.ndarray, tables: np.ndarray) -> np.ndarray:
  """Advances registers by the number of zero bytes of these tables (4, 256)."""
  parts = np.ascontiguousarray(registers, '<u4').view(np.uint8).reshape(-1, 4)
  return np.bitwise_xor.reduce(tables.ravel().take(parts + _OFFSETS), axis=1)


_OFFSETS = np.arange(0, 1024, 256)


@functools.cache
def _byte() -> np.ndarray:
  """Returns the register after each single byte, uint32 (256,)."""
  table = np.arange(256, dtype=np.uint32)
  for _ in range(8):
    table = np.where(table & 1, (table >> 1) ^ np.uint32(POLYNOMIAL), table >> 1)
  return table


@functools.cache
def _byte_list() -> list[int]:
  return _byte().tolist()


@functools.cache
def _places() -> np.ndarray:
  """Returns the registers after a block with one byte set, uint32 (BLOCK * 256,).

  There is one for each place in the block and each value of the byte.
  """
  rows = [_byte()]
  for _ in range(BLOCK - 1):
    rows.append(_byte()[rows[-1] & 255] ^ (rows[-1] >> 8))
  return np.concatenate(rows[::-1])


@functools.cache
def _zeros(level: int) -> np.ndarray:
  """Returns uint32 tables (4, 256) that advance registers by BLOCK * 2^level zeros."""
  if level:
    half = _zeros(level - 1)
    return _advanced(half.ravel(), half).reshape(4, 256)
  registers = np.arange(256, dtype=np.uint32) << np.uint32([[0], [8], [16], [24]])
  for _ in range(BLOCK):
    registers = _byte()[registers & 255] ^ (registers >> 8)
  return registers
