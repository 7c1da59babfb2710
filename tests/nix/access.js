// Who may do what by the rules made of everything.nix. run.sh puts polkit's object and the rules before this, for the engine
// that NixOS' polkit has.
function ask(user, groups, id, project) {
    return rule({
        id: id,
        lookup: function (key) { return key === "project" ? project : undefined; }
    }, {
        user: user,
        isInGroup: function (group) { return groups.indexOf(group) >= 0; }
    }) === polkit.Result.YES;
}

var verbs = ["view", "launch", "launch-as-other", "control-own", "control-any", "manage-projects", "manage-budgets", "manage-host", "read-audit", "report-usage"];
var operate = ["view", "launch", "control-own", "control-any", "report-usage"];
var manage = operate.concat(["manage-projects", "manage-budgets"]);
var cases = [
    // user, groups, project, what is granted
    ["root2", ["wheel"], undefined, verbs],
    ["root2", ["wheel"], "web", verbs],
    ["olga", [], "web", operate],
    ["olga", [], "other", operate],
    ["DOMAIN\\vera \"the viewer\"", [], "web", ["view"]],
    ["adam", [], "web", manage],
    ["adam", [], "web2", []],
    ["adam", [], undefined, []],
    ["bert", ["web-team"], "web", operate],
    ["bert", ["web-team"], "we", []],
    ["vic", [], "web", ["view"]],
    ["vic", [], "constructor", []],
    ["wheel", [], "web", []],
    ["@wheel", ["@wheel"], "web", []],
    ["bob", ["users"], "web", []],
    ["", [], "web", []]
];
for (var i = 0; i < cases.length; i++) {
    for (var v = 0; v < verbs.length; v++) {
        var of = cases[i];
        var expected = of[3].indexOf(verbs[v]) >= 0;
        if (ask(of[0], of[1], "org.stratavore1." + verbs[v], of[2]) !== expected) {
            throw new Error(of[0] + " " + verbs[v] + " " + of[2] + " should be " + expected);
        }
        if (ask(of[0], of[1], "org.freedesktop.systemd1." + verbs[v], of[2])) {
            throw new Error("an action of another program is granted");
        }
    }
}
