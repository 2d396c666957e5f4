import re
import types

import battery
import pytest

from big_vision_like.models import visual_transformer
from big_vision_like.report import compose
from big_vision_like.report import vit as report_vit
from big_vision_like.viz import visual_tokens

IMAGES = battery.images(5, 12, 16, 3)


@pytest.mark.parametrize('tokenizer', visual_transformer.TOKENIZERS)
def test_tokens_are_shown_with_their_cosine(tokenizer):
  model = visual_transformer.VisualTransformer(
    visual_transformer.Convolutions((4, 8), (1, 2)),
    num_classes=2,
    num_tokens=4,
    width=8,
    tokenizer=tokenizer,
  )
  trained = report_vit.Trained(
    model=model,
    variables=battery.variables(model, IMAGES),
    inputs=lambda image_BHWC: (image_BHWC,),
    images=lambda: IMAGES,
  )
  run = types.SimpleNamespace(network=types.SimpleNamespace(module=model))
  source = types.SimpleNamespace(trained=trained, run=run)
  [section] = compose.sections_of_model(source)
  content, caption = section.show(source)
  kinds = [f'module 1, {tokenizer}', 'module 2, recurrent']
  assert content.count('<img') == 3 * len(kinds)
  assert f'{len(IMAGES)} images' in caption
  sown = trained.collect(trained.variables, IMAGES)
  first = sown['module1']['tokenizer'][tokenizer]['probs'][-1]
  cosine = visual_tokens.mean_cosine(visual_tokens.maps_of(first, (6, 8)))
  for kind in kinds:
    assert re.search(rf'{kind}.*\d\.\d\d\d', content)
  assert f'{cosine:.3f}' in content
