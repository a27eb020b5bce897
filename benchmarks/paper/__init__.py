"""The paper's tables, reproduced: its rows in its protocol and in an honest one, with its CEM and with ours."""
