import runpy,sys
runpy.run_module("app.cli.main", run_name="__main__", alter_sys=True)
