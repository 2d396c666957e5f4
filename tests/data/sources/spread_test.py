from big_vision_like.data.sources.spread import Spread


def test_examples_are_spread_over_the_source():
  source = [{'label': i} for i in range(10)]
  few = Spread(source, 4)
  assert [x['label'] for x in few] == [0, 3, 6, 9]
  assert len(few) == 4 and few.files == ()
  assert [x['label'] for x in Spread(source, 99)] == list(range(10))
  assert few.fingerprint() != Spread(source, 5).fingerprint()
