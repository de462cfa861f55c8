"""What an API of any release serves."""

from typing import Any

from tests.support.serving import Api


def all_attendances(api: Api, limit: int = 100) -> list[dict[str, Any]]:
    """Every attendance by id, page by page; fails where a page is refused."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = api.query(cursorPaging={"limit": limit, **cursor})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["attendances"]
        if not page["pagingMetadata"]["hasNext"]:
            return found
        cursor = {"cursor": page["pagingMetadata"]["cursors"]["next"]}
