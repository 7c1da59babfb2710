# polkit's rule for `access`, null where nobody is named. All that users have said is data in it, written as JSON, and
# compared as a whole: nothing of it is ever code or a key.
{ lib }:
access:
let
  operate = [
    "view"
    "launch"
    "control-own"
    "control-any"
    "report-usage"
  ];
  ofProject = {
    viewers = [ "view" ];
    operators = operate;
    # Not launch-as-other: that is to be any user, which is more than a project.
    admins = operate ++ [
      "manage-projects"
      "manage-budgets"
    ];
  };
  ofHost = ofProject // {
    admins = ofProject.admins ++ [
      "launch-as-other"
      "manage-host"
      "read-audit"
    ];
  };

  isGroup = lib.hasPrefix "@";
  grants =
    verbs: project: of:
    map (role: {
      inherit project;
      verbs = verbs.${role};
      users = lib.filter (name: !isGroup name) of.${role};
      groups = map (lib.removePrefix "@") (lib.filter isGroup of.${role});
    }) (lib.filter (role: of.${role} != [ ]) (lib.attrNames verbs));
  all =
    grants ofHost null access
    ++ lib.concatLists (lib.mapAttrsToList (grants ofProject) access.projects);
in
if all == [ ] then
  null
else
  ''
    // Made of services.stratavore.access. It only ever says yes: what it does not say is decided by the rules behind it.
    polkit.addRule(function (action, subject) {
        var prefix = "org.stratavore1.";
        if (action.id.indexOf(prefix) !== 0) {
            return polkit.Result.NOT_HANDLED;
        }
        var verb = action.id.slice(prefix.length);
        var project = action.lookup("project");
        // Of the whole host where the project is null.
        var grants = ${builtins.toJSON all};
        var granted = grants.some(function (grant) {
            return (grant.project === null || grant.project === project) &&
                grant.verbs.indexOf(verb) >= 0 &&
                (grant.users.indexOf(subject.user) >= 0 ||
                    grant.groups.some(function (group) { return subject.isInGroup(group); }));
        });
        return granted ? polkit.Result.YES : polkit.Result.NOT_HANDLED;
    });
  ''
