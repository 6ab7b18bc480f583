"""Tables and figures of the text-guided paper, and runs that repeat them."""

from salflax.report.paper import Figure, Identity, Paper, Place, Row, Table

_FREE = 'SALICON_pretrained'
_BASE = 'non_salient_1att_last2conv'
_CONDITIONS = ('pure', 'non_salient', 'salient', 'all')
_DIRECT = Place(_FREE, 'sjtu_tis-test')


def _spaced(name: str) -> str:
  return name.replace('_', ' ')


def _finetuned(condition):
  # Table III's row is the run of Table IV's first row.
  apart = condition == 'non_salient'
  folder = _BASE if apart else f'finetuned_{condition}'
  printed = f'finetuned_{condition}'
  return Row(_spaced(condition), Place(folder), condition, printed)


def _non_salient(setting, label, *, ours=False):
  printed = '' if ours else setting
  return Row(label, Place(setting), 'non_salient', printed)


PAPER = Paper(
  source='huang2024',
  name='text_guided',
  protocol='course',
  metrics={
    'AUC': 'course/course_auc',
    'sAUC': 'course/course_sauc',
    'CC': 'course/course_cc',
    'NSS': 'course/course_nss',
  },
  identity=Identity('sAUC', 'AUC', 0.25, 0.5, 2e-4),
  note=(
    'The released code prints running averages of training as validation, '
    'scores the first batch of it alone, and splits anew at every start: '
    'printed numbers may not be of pictures that were held out.'
  ),
  tables=(
    Table(
      'I',
      'Pretrained on SALICON, free viewing',
      (Row('SALICON', Place(_FREE), 'pure', _FREE),),
      data='salicon',
      note=(
        'The released data class opens the training folders whatever it is '
        'told, so the printed row may be of training pictures.'
      ),
    ),
    Table(
      'II',
      'The pretrained model on SJTU-TIS, not fine-tuned',
      tuple(Row(_spaced(c), _DIRECT, c, f'direct_{c}') for c in _CONDITIONS),
      data='sjtu_tis',
    ),
    Table(
      'III',
      'Fine-tuned on SJTU-TIS',
      (
        *map(_finetuned, _CONDITIONS),
        *(
          Row(
            f'{_spaced(c)}, one model for all conditions',
            Place('all_conditions'),
            c,
            against=_finetuned(c).place,
          )
          for c in _CONDITIONS
        ),
      ),
      against=_DIRECT,
      data='sjtu_tis',
    ),
    Table(
      'IV',
      'Non-salient: where attention stands, and what trains',
      (
        _non_salient(_BASE, '1 attention + the last 2 conv'),
        _non_salient('non_salient_3att_none', '3 attention + none'),
        _non_salient(
          'non_salient_3att_last2conv', '3 attention + the last 2 conv'
        ),
        _non_salient(
          'non_salient_3att_last4conv', '3 attention + the last 4 conv'
        ),
        _non_salient(
          'non_salient_3att_all_decoder', '3 attention + all decoder'
        ),
        _non_salient('non_salient_gate', 'gate, as released', ours=True),
        _non_salient('non_salient_full', 'equation 4 as printed', ours=True),
        _non_salient('non_salient_lowrank', 'low rank', ours=True),
        _non_salient('non_salient_bilinear', 'bilinear', ours=True),
      ),
      against=Place(_BASE),
      data='sjtu_tis',
    ),
    Table(
      'V',
      'Non-salient: text inside the transformer encoders',
      (
        _non_salient(
          'non_salient_scheme2_transencoder', 'cross-attention in TransEncoder'
        ),
        _non_salient('non_salient_te_bilinear', 'bilinear', ours=True),
        _non_salient('non_salient_te_prepend', 'prepended', ours=True),
        _non_salient('non_salient_sam_text', 'gate in SAM', ours=True),
      ),
      against=Place(_BASE),
      data='sjtu_tis',
    ),
    Table(
      'VI',
      'Non-salient: with a contrastive loss',
      (
        _non_salient('non_salient_scheme3_contrastive', 'contrastive loss'),
        _non_salient(
          'non_salient_contrastive_order', 'order loss, as released', ours=True
        ),
        _non_salient('non_salient_contrastive_only', 'no attention', ours=True),
      ),
      against=Place(_BASE),
      data='sjtu_tis',
    ),
  ),
  figures=(
    Figure(
      '2 to 6',
      'What another sentence changes: people, and the model',
      ('all_conditions', _BASE, 'finetuned_salient'),
      'evaluate/test/difference.png',
    ),
  ),
)
