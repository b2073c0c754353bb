// The question on screen, to take elsewhere.

import { For } from "solid-js";
import { absoluteBase } from "../../api/client";
import { Icon } from "../../parts/icon";
import { Popover } from "../../parts/popover";
import { go, link, page } from "../../routes";
import { curl, flowsUrl, toObserve } from "../../state/copy";
import { toSql } from "../../state/sql";
import { copy } from "../../state/store";
import { pin } from "../../state/time";

export function CopyMenu() {
  const items: { name: string; help: string; what: () => string }[] = [
    { name: "Link", help: "this view; relative time becomes fixed", what: () => link({ ...page, range: pin(page.range, Date.now()) }) },
    { name: "weir observe", help: "the same question in a terminal", what: () => toObserve(page.tokens, page.range) },
    { name: "SQL", help: "over the table flows", what: () => toSql(page.tokens, page.range) },
    { name: "curl", help: "the HTTP API", what: () => curl(absoluteBase(), flowsUrl(page.tokens, page.range)) },
  ];
  return (
    <>
      <button
        type="button"
        class="button quiet"
        data-testid="open-in-sql"
        title="The filter as a query"
        onClick={() => go({ view: "sql", sql: toSql(page.tokens, page.range), flow: null })}
      >
        Open in SQL
      </button>
      <Popover
        class="button quiet"
        align="right"
        testid="copy-menu"
        label={
          <>
            <Icon name="copy" />
            Copy as
          </>
        }
      >
        {(close) => (
          <ul class="menu">
            <For each={items}>
              {(i) => (
                <li>
                  <button
                    type="button"
                    onClick={() => {
                      void copy(i.what(), i.name);
                      close();
                    }}
                  >
                    <b>{i.name}</b>
                    <span class="muted">{i.help}</span>
                  </button>
                </li>
              )}
            </For>
          </ul>
        )}
      </Popover>
    </>
  );
}
