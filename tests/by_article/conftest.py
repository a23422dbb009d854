"""Tests of feature sets by article: collected where one is declared, in a process of their own.

Tables and stages are declared at import, so they cannot come and go within a process;
tests/processors/test_sets_by_article.py starts it.
"""

from processors.features.declarations import SETS_BY_ARTICLE

collect_ignore_glob = [] if SETS_BY_ARTICLE else ["test_*.py"]
