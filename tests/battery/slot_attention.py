from battery import Case, images
from big_vision_like.models import slot_attention

SLOTS = dict(num_slots=5, slot_size=12, hidden=14)
IMAGES = (images(4, 8, 16, 3),)
CLEVR = (images(1, 128, 128, 3),)

# The softmax over slots cancels a constant added to all of them.
CANCELLED = ('.*norm_slots/bias',)

CASES = {
  'slot_attention': Case(
    slot_attention.AutoEncoder(
      **SLOTS,
      encoder_convs=((10, 3, 1), (10, 3, 2)),
      grid=(4, 8),
      decoder_convs=((10, 3, 2),),
    ),
    IMAGES,
    ('reconstruction',),
  ),
  'slot_attention_clevr': Case(
    slot_attention.AutoEncoder(num_slots=7, **slot_attention.variant('clevr')),
    CLEVR,
    (),
  ),
  'slot_attention_tetrominoes': Case(
    slot_attention.AutoEncoder(num_slots=4, **slot_attention.variant('tetrominoes')),
    (images(1, 35, 35, 3),),
    (),
  ),
  'slot_set': Case(
    slot_attention.SetClassifier(
      **SLOTS, num_properties=6, encoder_convs=((10, 3, 2),)
    ),
    IMAGES,
    ('predictions',),
  ),
  'slot_set_clevr': Case(
    slot_attention.SetClassifier(num_slots=10, num_properties=19), CLEVR, ()
  ),
}
