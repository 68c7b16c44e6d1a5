from ._frames import JournalDamaged as JournalDamaged
from ._journal import SUFFIX as SUFFIX
from ._journal import Journal as Journal
from ._reader import JournalReader as JournalReader
from ._recorder import RunRecorder as RunRecorder
