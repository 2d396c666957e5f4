from tools import write_trees


def test_lines_of_words_and_symbols(tmp_path, capsys):
  (tmp_path / 'a.mrg').write_text(
    '( (S (NP-SBJ (NN a)) (VP (VB b))))\n( (X (-NONE- *)))'
  )
  out = tmp_path / 'lines.txt'
  write_trees.main([str(tmp_path / '*.mrg'), '--out', str(out)])
  assert out.read_text() == 'a b\n(S (NP NN )NP (VP VB )VP )S\n'
  assert 'lines.txt: 1 tree; left out: trees without words or brackets (1)' in (
    capsys.readouterr().out
  )
  assert write_trees.main([str(tmp_path / '*.mrg'), '--out', str(out)]) == 1
  assert 'already exists; --overwrite replaces it' in capsys.readouterr().err
