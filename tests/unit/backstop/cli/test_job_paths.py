"""An id from the command line names a job, and no other route, whatever characters it has."""

import string

from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from backstop.runtime.http.api_client import job_path


@given(
    st.text(string.printable, min_size=1, max_size=20) | st.sampled_from((".", "..", "../x", "a/../b", "%2E%2E", "?"))
)
def test_an_id_stays_one_segment(job_id: str) -> None:
    url = URL("http://h:1").join(URL(job_path(job_id, "/why")))
    assert url.raw_path.count("/") == 4
    assert url.raw_path.startswith("/v1/jobs/")
    assert url.raw_path.endswith("/why")
    assert (url.query_string, url.fragment) == ("", "")
