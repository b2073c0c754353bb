import { render } from "solid-js/web";
import { App } from "./app";
import { applyTheme } from "./state/store";
import "./style/tokens.css";
import "./style/base.css";
import "./style/states.css";
import "./style/filter.css";
import "./style/bar.css";
import "./style/timeline.css";
import "./style/detail.css";
import "./style/flows.css";
import "./style/map.css";
import "./style/query.css";
import "./style/health.css";

applyTheme();
render(() => <App />, document.getElementById("app")!);
