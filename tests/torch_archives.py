"""Files in the format of torch.save, written without PyTorch."""

import zipfile

import numpy as np

_STORAGES = {
  'float32': b'FloatStorage',
  'float64': b'DoubleStorage',
  'int64': b'LongStorage',
}


def save(path, content):
  """Writes nested dicts of arrays as `torch.save(content, path)` would."""
  blocks = []
  pickled = b'\x80\x02' + _pickled(content, blocks) + b'.'
  write(path, pickled, blocks)


def write(path, pickled, blocks):
  """Writes an archive of a pickle and of blocks of numbers."""
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr('model/data.pkl', pickled)
    for i, block in enumerate(blocks):
      file.writestr(f'model/data/{i}', block)


def tensor(key, dtype, size, offset, shape, strides):
  """Returns the pickle of a tensor of the storage `key` with `size` numbers."""
  # Written by hand, since pickle refuses names of modules that are not installed.
  return b''.join(
    [
      b'ctorch._utils\n_rebuild_tensor_v2\n(',
      b'(%sctorch\n%s\n%s' % (_text('storage'), _STORAGES[dtype], _text(str(key))),
      b'%sI%d\ntQ' % (_text('cpu'), size),
      b'I%d\n' % offset,
      b'(' + b''.join(b'I%d\n' % n for n in shape) + b't',
      b'(' + b''.join(b'I%d\n' % n for n in strides) + b't',
      b'tR',
    ]
  )


def named(name, pickled):
  """Returns the pickle of a dict with one entry, whose value is already pickled."""
  return b'\x80\x02}' + _text(name) + pickled + b's.'


def _pickled(content, blocks):
  if isinstance(content, int):
    return b'I%d\n' % content
  if isinstance(content, dict):
    items = (_text(k) + _pickled(v, blocks) for k, v in content.items())
    return b'}(' + b''.join(items) + b'u'
  array = np.asarray(content, order='C')
  blocks.append(array.tobytes())
  strides = [n // array.itemsize for n in array.strides]
  sizes = array.size, 0, array.shape, strides
  return tensor(len(blocks) - 1, str(array.dtype), *sizes)


def _text(text):
  return b'X' + len(text).to_bytes(4, 'little') + text.encode()
