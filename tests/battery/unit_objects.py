from battery import unit

# As in `unit`. Without a text, the softmax also cancels the offset of all positions.
CANCELLED = (
  '.*key/bias',
  'decoder/block_0/attention/(query|key)/.*',
  'decoder/block_0/attention/value/kernel',
  'image_position_proj/bias',
)

CASES = {'unit_objects': unit.OBJECTS}
